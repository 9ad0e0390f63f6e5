# Package: find_package(tokamak) gives tokamak::tokamak.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
install(TARGETS tokamak EXPORT tokamak-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/tokamak DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT tokamak-targets NAMESPACE tokamak:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/tokamak)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/tokamak-config.cmake.in
  ${PROJECT_BINARY_DIR}/tokamak-config.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/tokamak)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tokamak-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tokamak-config.cmake ${PROJECT_BINARY_DIR}/tokamak-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/tokamak)
if(TOKAMAK_TOOLS)
  install(TARGETS tokamak_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
