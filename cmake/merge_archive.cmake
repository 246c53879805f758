# cmake -DARCHIVE=<out.a> -DCORE=<in.a> -DAR=<ar> -DRANLIB=<ranlib> -DSTRIP=<strip> -DCONFIG=<build type>
#       -P merge_archive.cmake
# Adds the members of CORE to ARCHIVE. Unpacking would lose members of the same name.
#
# AR and RANLIB are the compiler's own (gcc-ar, llvm-ar): plain ar asks whatever plug-in the machine has
# for the symbols of Rust's objects, and where that is an older LLVM's, leaves them out of the index.
get_filename_component(folder "${ARCHIVE}" DIRECTORY)
get_filename_component(name "${ARCHIVE}" NAME)
# MRI scripts know no quoting, so no path is in it.
file(CREATE_LINK "${CORE}" "${ARCHIVE}.core.a" SYMBOLIC)
file(WRITE "${ARCHIVE}.mri" "open ${name}\naddlib ${name}.core.a\nsave\nend\n")

function(run)
	execute_process(${ARGN} WORKING_DIRECTORY "${folder}" RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
	if(NOT result EQUAL 0)
		message(FATAL_ERROR "${ARGN}: ${result}\n${said}")
	endif()
endfunction()
run(COMMAND "${AR}" -M INPUT_FILE "${ARCHIVE}.mri")
# jemalloc and std come with debug information that is ten times their code.
if(CONFIG MATCHES "^(Release|MinSizeRel)?$")
	run(COMMAND "${STRIP}" --strip-debug "${ARCHIVE}")
endif()
run(COMMAND "${RANLIB}" "${ARCHIVE}")
file(REMOVE "${ARCHIVE}.mri" "${ARCHIVE}.core.a")
