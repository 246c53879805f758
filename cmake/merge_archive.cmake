# cmake -DARCHIVE=<out.a> -DCORE=<in.a> -DCXX=<compiler> -DAR=<ar> -DRANLIB=<ranlib> -DSTRIP=<strip>
#       -DOBJCOPY=<objcopy> -DCONFIG=<build type> -P merge_archive.cmake
# Adds the Rust core to ARCHIVE, as one object that shows nothing but libgmem's own names: a program may have
# another Rust library, with a standard library and an allocator of its own under the same names.
#
# AR and RANLIB are the compiler's own (gcc-ar, llvm-ar): plain ar asks whatever plug-in the machine has
# for the symbols of Rust's objects, and where that is an older LLVM's, leaves them out of the index.
function(run)
	execute_process(${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
	if(NOT result EQUAL 0)
		message(FATAL_ERROR "${ARGN}: ${result}\n${said}")
	endif()
endfunction()

set(object "${ARCHIVE}.core.o")
# Groups of C++'s inline functions are dissolved, or the linker would merge local ones by name.
run(COMMAND "${CXX}" -r -nostdlib -o "${object}" -Wl,--force-group-allocation
	-Wl,--whole-archive "${CORE}" -Wl,--no-whole-archive)
# gmem*: C; gmem::detail: what the C++ headers call; the last: jemalloc's, for the heap's C++ half.
run(COMMAND "${OBJCOPY}" --wildcard "--keep-global-symbol=gmem*" "--keep-global-symbol=_ZN4gmem6detail*"
	"--keep-global-symbol=_rjem_je_gmem_thread_state" "${object}")
# jemalloc and std come with debug information that is ten times their code.
if(CONFIG MATCHES "^(Release|MinSizeRel)?$")
	run(COMMAND "${STRIP}" --strip-debug "${object}")
endif()
run(COMMAND "${AR}" r "${ARCHIVE}" "${object}")
run(COMMAND "${RANLIB}" "${ARCHIVE}")
file(REMOVE "${object}")
