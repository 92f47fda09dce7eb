# torchpool_unity(<target>): one compilation for the sources of each folder below the target's, if TORCHPOOL_UNITY is on.
# By folder and not by number, so that a new file changes one compilation only.
function(torchpool_unity target)
  if(NOT TORCHPOOL_UNITY)
    return()
  endif()
  get_target_property(sources ${target} SOURCES)
  foreach(source IN LISTS sources)
    cmake_path(RELATIVE_PATH source BASE_DIRECTORY "${PROJECT_SOURCE_DIR}" OUTPUT_VARIABLE name)
    cmake_path(GET name PARENT_PATH folder)
    string(MAKE_C_IDENTIFIER "${folder}" group)
    set_source_files_properties("${source}" PROPERTIES UNITY_GROUP ${group})
  endforeach()
  # Relocatable: by relative paths (CMake 4), so that another clone's compiler cache knows the result.
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP UNITY_BUILD_RELOCATABLE ON)
endfunction()
