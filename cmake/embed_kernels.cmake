# embed_kernels(<output.cpp> <folder>): at build time, turns every *.cuh below <folder> into one C++
# file that defines shunt::codegen::kernel_headers(). A header becomes pieces of raw string literals
# of at most 8000 bytes, because compilers limit the length of one. Needs only CMake: the file also
# runs as the script that writes the output.

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  # Script mode: cmake -DFOLDER=... -DOUTPUT=... -P embed_kernels.cmake
  file(GLOB_RECURSE headers RELATIVE "${FOLDER}" "${FOLDER}/*.cuh")
  list(SORT headers)
  set(text "// Written by cmake/embed_kernels.cmake.\n#include \"codegen/kernel_headers.h\"\n\n")
  string(APPEND text "namespace shunt::codegen {\n\nnamespace {\n\n")
  set(table "")
  set(index 0)
  foreach(header IN LISTS headers)
    file(READ "${FOLDER}/${header}" content)
    string(LENGTH "${content}" length)
    string(APPEND text "// ${header}\nconstexpr char kText${index}[] =")
    set(at 0)
    while(at LESS length)
      string(SUBSTRING "${content}" ${at} 8000 piece)
      string(APPEND text "\nR\"~~~(${piece})~~~\"")
      math(EXPR at "${at} + 8000")
    endwhile()
    string(APPEND text "\n\"\";\n\n")
    string(APPEND table "    {\"${header}\", {kText${index}, sizeof(kText${index}) - 1}},\n")
    math(EXPR index "${index} + 1")
  endforeach()
  string(APPEND text "constexpr EmbeddedHeader kHeaders[] = {\n${table}};\n\n}  // namespace\n\n")
  string(APPEND text "std::span<const EmbeddedHeader> kernel_headers() { return kHeaders; }\n\n")
  string(APPEND text "}  // namespace shunt::codegen\n")
  file(WRITE "${OUTPUT}" "${text}")
  return()
endif()

set(EMBED_KERNELS_SCRIPT "${CMAKE_CURRENT_LIST_FILE}")

function(embed_kernels output folder)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${folder}/*.cuh")
  add_custom_command(
    OUTPUT "${output}"
    COMMAND "${CMAKE_COMMAND}" "-DFOLDER=${folder}" "-DOUTPUT=${output}"
            -P "${EMBED_KERNELS_SCRIPT}"
    DEPENDS ${headers} "${EMBED_KERNELS_SCRIPT}"
    COMMENT "Embedding the device headers"
    VERBATIM)
endfunction()
