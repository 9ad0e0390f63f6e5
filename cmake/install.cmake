# Package: find_package(tokamak) gives tokamak::tokamak. It can be moved, and needs nothing but a C++20 compiler: what the
# library is built with is inside it or found by the loader.
include(CMakePackageConfigHelpers)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/tokamak)

install(TARGETS tokamak EXPORT tokamak-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/tokamak DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
# The library has these inside; the files are for reading and for `tokamak tune merge`.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs DESTINATION ${CMAKE_INSTALL_DATADIR}/tokamak FILES_MATCHING PATTERN "*.json")
if(TOKAMAK_TOOLS)
  install(TARGETS tokamak_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

install(EXPORT tokamak-targets NAMESPACE tokamak:: DESTINATION ${package_folder})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/tokamak-config.cmake.in
  ${PROJECT_BINARY_DIR}/tokamak-config.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tokamak-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tokamak-config.cmake ${PROJECT_BINARY_DIR}/tokamak-config-version.cmake
  DESTINATION ${package_folder})
