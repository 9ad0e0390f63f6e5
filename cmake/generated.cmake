# Sources made at configure or build time: the shipped configurations and the build's identity.
set(generated ${PROJECT_BINARY_DIR}/generated)
set(TOKAMAK_GENERATED_SOURCES ${generated}/shipped_configs.cpp ${generated}/build_info.cpp)

file(GLOB shipped CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/configs/*.json)
add_custom_command(OUTPUT ${generated}/shipped_configs.cpp
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${generated}/shipped_configs.cpp "-DINPUTS=${shipped}"
          -P ${PROJECT_SOURCE_DIR}/cmake/embed_configs.cmake
  DEPENDS ${shipped} ${PROJECT_SOURCE_DIR}/cmake/embed_configs.cmake VERBATIM)

# Runs on every build, but rewrites its output only when the commit or the CUDA sources changed.
add_custom_target(tokamak_build_info
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${generated}/build_info.cpp -DSOURCE=${PROJECT_SOURCE_DIR}
          -DVERSION=${PROJECT_VERSION} -P ${PROJECT_SOURCE_DIR}/cmake/build_info.cmake
  BYPRODUCTS ${generated}/build_info.cpp VERBATIM)
