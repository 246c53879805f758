# Drives Cargo: finds it, checks its version, and builds the Rust core as one static library.

# Versions are read from Cargo.toml and the names of devices from src/device/mod.rs.
file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/../Cargo.toml" _cargo_toml REGEX "^(version|rust-version) = ")
string(REGEX MATCH "(^|;)version = \"([0-9.]+)\"" _ "${_cargo_toml}")
set(LIBGMEM_VERSION "${CMAKE_MATCH_2}")
string(REGEX MATCH "rust-version = \"([0-9.]+)\"" _ "${_cargo_toml}")
set(LIBGMEM_RUST_VERSION "${CMAKE_MATCH_1}")

# Sets LIBGMEM_CARGO, LIBGMEM_RUST_TARGET and LIBGMEM_RUSTC_USED, or stops with one sentence.
function(libgmem_find_cargo)
	find_program(LIBGMEM_CARGO cargo HINTS "$ENV{HOME}/.cargo/bin" DOC "The cargo that builds libgmem")
	set(_remedy "install one (https://rustup.rs, or your distribution's) or name it with -DLIBGMEM_CARGO=<path>")
	if(NOT LIBGMEM_CARGO)
		message(FATAL_ERROR "libgmem needs cargo ${LIBGMEM_RUST_VERSION} or newer and found none: ${_remedy}.")
	endif()
	execute_process(COMMAND "${LIBGMEM_CARGO}" --version
		OUTPUT_VARIABLE _version ERROR_VARIABLE _error RESULT_VARIABLE _result)
	if(NOT _result EQUAL 0 OR NOT _version MATCHES "cargo ([0-9]+\\.[0-9]+\\.[0-9]+)")
		string(STRIP "${_version}${_error}${_result}" _said)
		message(FATAL_ERROR "libgmem needs cargo ${LIBGMEM_RUST_VERSION} or newer, and ${LIBGMEM_CARGO} does not run (${_said}): ${_remedy}.")
	endif()
	if(CMAKE_MATCH_1 VERSION_LESS LIBGMEM_RUST_VERSION)
		message(FATAL_ERROR "libgmem needs cargo ${LIBGMEM_RUST_VERSION} or newer, and ${LIBGMEM_CARGO} is ${CMAKE_MATCH_1}: ${_remedy}.")
	endif()
	if(NOT LIBGMEM_RUST_TARGET)
		execute_process(COMMAND "${LIBGMEM_CARGO}" --version --verbose OUTPUT_VARIABLE _verbose)
		string(REGEX MATCH "host: ([^\n]+)" _ "${_verbose}")
		set(LIBGMEM_RUST_TARGET "${CMAKE_MATCH_1}" CACHE STRING "Rust target triple")
	endif()
	set(LIBGMEM_RUSTC "" CACHE FILEPATH "The rustc for it (Cargo's own unless set)")
	set(_rustc "${LIBGMEM_RUSTC}")
	if(NOT _rustc)
		get_filename_component(_folder "${LIBGMEM_CARGO}" DIRECTORY)
		find_program(_found_rustc rustc HINTS "${_folder}" NO_CACHE)
		if(_found_rustc)
			set(_rustc "${_found_rustc}")
		else()
			set(_rustc rustc)
		endif()
	endif()
	set(LIBGMEM_RUSTC_USED "${_rustc}" PARENT_SCOPE)
	execute_process(COMMAND "${_rustc}" --print target-libdir --target "${LIBGMEM_RUST_TARGET}"
		OUTPUT_VARIABLE _libraries OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_VARIABLE _error RESULT_VARIABLE _result)
	file(GLOB _std "${_libraries}/libstd-*.rlib")
	if(NOT _result EQUAL 0 OR NOT _std)
		string(STRIP "${_error}" _said)
		message(FATAL_ERROR "${_rustc} has no standard library for LIBGMEM_RUST_TARGET=${LIBGMEM_RUST_TARGET} ${_said}: run `rustup target add ${LIBGMEM_RUST_TARGET}`, or for aarch64 `./dev setup aarch64`.")
	endif()
endfunction()

# Stops unless LIBGMEM_DEVICE is auto or one of the devices that src/device/mod.rs lists, one a line, as "&name::Type,".
function(libgmem_check_device)
	set(_list "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../src/device/mod.rs")
	set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${_list}")
	file(STRINGS "${_list}" _devices REGEX "^    &[a-z0-9_]+::[A-Za-z0-9]+,$")
	list(TRANSFORM _devices REPLACE "^    &([a-z0-9_]+)::.*$" "\\1")
	if(NOT LIBGMEM_DEVICE IN_LIST _devices AND NOT LIBGMEM_DEVICE STREQUAL "auto")
		list(JOIN _devices ", " _devices)
		message(FATAL_ERROR "LIBGMEM_DEVICE=${LIBGMEM_DEVICE} is not a device of libgmem; the devices are: ${_devices}, and auto, which chooses one at run time.")
	endif()
endfunction()

# Sets LIBGMEM_CARGO_TARGET_DIR_USED and LIBGMEM_CARGO_ENVIRONMENT for libgmem_cargo_archive.
macro(libgmem_prepare_cargo)
	set(LIBGMEM_CARGO_TARGET_DIR_USED "${LIBGMEM_CARGO_TARGET_DIR}")
	if(NOT LIBGMEM_CARGO_TARGET_DIR_USED)
		set(LIBGMEM_CARGO_TARGET_DIR_USED "${PROJECT_BINARY_DIR}/cargo")
	endif()
	set(GMEM_GENERATED_INCLUDE "${PROJECT_BINARY_DIR}/include")
	_libgmem_cargo_environment(LIBGMEM_CARGO_ENVIRONMENT)
	# The arguments of `cmake -E env`, one a line: with them `./dev` runs Cargo on the same artifacts.
	list(JOIN LIBGMEM_CARGO_ENVIRONMENT "\n" _lines)
	file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/cargo_environment.txt" CONTENT "@_lines@\n" @ONLY)
endmacro()

# Everything that Cargo compares between two builds is the same for each build folder with the same Cargo folder, so
# they share one compiled core.
function(_libgmem_cargo_environment variable)
	set(target_dir "${LIBGMEM_CARGO_TARGET_DIR_USED}")
	# No path of the build machine ends up in an installed file.
	set(home "$ENV{CARGO_HOME}")
	if(NOT home)
		set(home "$ENV{HOME}/.cargo")
	endif()
	set(maps "${home}=/cargo" "${target_dir}=/target" "${PROJECT_SOURCE_DIR}=/libgmem")
	list(TRANSFORM maps PREPEND "-ffile-prefix-map=" OUTPUT_VARIABLE c_maps)
	list(JOIN c_maps " " c_maps)
	# The separator of CARGO_ENCODED_RUSTFLAGS is the character 0x1f.
	string(ASCII 31 unit)
	list(TRANSFORM maps PREPEND "--remap-path-prefix=")
	list(JOIN maps "${unit}" rustflags)
	if(DEFINED ENV{RUSTFLAGS})
		string(REPLACE " " "${unit}" user "$ENV{RUSTFLAGS}")
		set(rustflags "${user}${unit}${rustflags}")
	endif()
	string(REPLACE "-" "_" triple "${LIBGMEM_RUST_TARGET}")
	string(TOUPPER "${triple}" TRIPLE)
	# For jemalloc alone: the renaming that every build has, and the thread-local state of the shipped libraries.
	file(STRINGS "${PROJECT_SOURCE_DIR}/.cargo/config.toml" cppflags REGEX "^${TRIPLE}_CPPFLAGS = ")
	string(REGEX REPLACE "^[^\"]*\"([^\"]*)\".*$" "\\1" cppflags "${cppflags}")
	if(NOT cppflags)
		message(FATAL_ERROR "libgmem is not prepared for ${LIBGMEM_RUST_TARGET}: .cargo/config.toml has no ${TRIPLE}_CPPFLAGS; add it, and ${TRIPLE}_LDFLAGS, as they are there for another target.")
	endif()
	# Cargo does not notice a change of these headers, but it notices a change of the flags.
	set(headers "${PROJECT_SOURCE_DIR}/cpp/jemalloc/jemalloc/internal/tsd_tls.h" "${PROJECT_SOURCE_DIR}/cpp/heap_constants.h")
	set(header)
	foreach(file IN LISTS headers)
		set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
		file(MD5 "${file}" hash)
		string(APPEND header "${hash}")
	endforeach()
	string(MD5 header "${header}")
	string(APPEND cppflags " -I${PROJECT_SOURCE_DIR}/cpp/jemalloc -DGMEM_THREAD_STATE_HEADER=0x${header}")
	# TLS descriptors: as fast as a fixed offset where the loader has room for one, and no need for it.
	include(CheckCCompilerFlag)
	check_c_compiler_flag(-mtls-dialect=gnu2 LIBGMEM_HAS_TLSDESC)
	if(LIBGMEM_HAS_TLSDESC)
		string(APPEND cppflags " -mtls-dialect=gnu2")
		set(LIBGMEM_TLS_OPTIONS -mtls-dialect=gnu2 PARENT_SCOPE)
	endif()
	set(harden 0)
	if(LIBGMEM_HARDEN)
		set(harden 1)
	endif()
	set(rustc)
	if(LIBGMEM_RUSTC)
		set(rustc "RUSTC=${LIBGMEM_RUSTC}")
	endif()
	# A cross build links its build scripts as a native one does, so both can share them.
	set(host_linker)
	execute_process(COMMAND "${LIBGMEM_RUSTC_USED}" --version --verbose OUTPUT_VARIABLE version)
	if(version MATCHES "host: ([^\n]+)" AND NOT CMAKE_MATCH_1 STREQUAL LIBGMEM_RUST_TARGET)
		string(REPLACE "-" "_" host "${CMAKE_MATCH_1}")
		string(TOUPPER "${host}" host)
		find_program(LIBGMEM_HOST_CC cc NO_CMAKE_FIND_ROOT_PATH DOC "The C compiler that links Cargo's build scripts")
		if(LIBGMEM_HOST_CC)
			set(host_linker "CARGO_TARGET_${host}_LINKER=${LIBGMEM_HOST_CC}")
		endif()
	endif()
	set(${variable}
		${rustc} ${host_linker} "${TRIPLE}_CPPFLAGS=${cppflags}"
		# These would move the files that are copied afterwards.
		--unset=CARGO_TARGET_DIR --unset=CARGO_BUILD_TARGET_DIR --unset=CARGO_BUILD_BUILD_DIR
		# jemalloc's make takes part in Cargo's job server, not in that of CMake or of a Cargo that runs CMake.
		--unset=MAKEFLAGS --unset=MFLAGS --unset=CARGO_MAKEFLAGS --unset=RUSTFLAGS
		# `cargo clippy` of a package whose build script runs CMake must not lint the core.
		--unset=RUSTC_WORKSPACE_WRAPPER
		"CARGO_ENCODED_RUSTFLAGS=${rustflags}"
		"CC_${triple}=${CMAKE_C_COMPILER}" "CXX_${triple}=${CMAKE_CXX_COMPILER}" "AR_${triple}=${CMAKE_AR}"
		"CFLAGS_${triple}=${CMAKE_C_FLAGS} ${c_maps}" "CXXFLAGS_${triple}=${CMAKE_CXX_FLAGS} ${c_maps}"
		"CARGO_TARGET_${TRIPLE}_LINKER=${CMAKE_C_COMPILER}"
		"GMEM_DEFAULT_DEVICE=${LIBGMEM_DEVICE}"
		"GMEM_DEFAULT_HARDEN=${harden}"
		PARENT_SCOPE)
endfunction()

# libgmem_cargo_archive(<target> <output> ARGUMENTS <of cargo rustc>... ARTIFACT <below Cargo's profile
# folder> [GENERATED_HEADERS <path>...] [PROFILE <of Cargo>] OUTPUT_VARIABLE <variable>): a custom target that brings an
# archive of Rust code up to date at each build. The profile is that of the build type unless named. <output> is relative to the build folder. Generated headers are copied from include/
# in Cargo's profile folder to GMEM_GENERATED_INCLUDE.
function(libgmem_cargo_archive target output)
	cmake_parse_arguments(PARSE_ARGV 2 arg "" "ARTIFACT;OUTPUT_VARIABLE;PROFILE" "ARGUMENTS;GENERATED_HEADERS")
	set(output "${PROJECT_BINARY_DIR}/${output}")

	# Build types and Cargo profiles, with the folder that Cargo names after each.
	set(is_release "$<OR:$<CONFIG:Release>,$<CONFIG:>>")
	set(others "$<$<CONFIG:RelWithDebInfo>:relwithdebinfo>$<$<CONFIG:MinSizeRel>:minsizerel>")
	set(profile "$<${is_release}:release>$<$<CONFIG:Debug>:dev>${others}")
	set(folder "$<${is_release}:release>$<$<CONFIG:Debug>:debug>${others}")
	if(arg_PROFILE)
		set(profile "${arg_PROFILE}")
		string(REGEX REPLACE "^dev$" "debug" folder "${profile}")
	endif()
	set(offline "$<$<BOOL:${LIBGMEM_CARGO_OFFLINE}>:--offline>")
	set(features "$<$<BOOL:${LIBGMEM_CHECKED_HEAP}>:--features=checked-heap>")

	set(from "${LIBGMEM_CARGO_TARGET_DIR_USED}/${LIBGMEM_RUST_TARGET}/${folder}")
	set(headers)
	set(copy_headers)
	foreach(header IN LISTS arg_GENERATED_HEADERS)
		list(APPEND headers "${GMEM_GENERATED_INCLUDE}/${header}")
		list(APPEND copy_headers COMMAND "${CMAKE_COMMAND}" -E copy_if_different
			"${from}/include/${header}" "${GMEM_GENERATED_INCLUDE}/${header}")
	endforeach()

	# Cargo knows best what is out of date, so it always runs. The copies keep their time stamps when nothing changed, and
	# then nothing is linked again.
	add_custom_target(${target}
		COMMAND "${CMAKE_COMMAND}" -E env ${LIBGMEM_CARGO_ENVIRONMENT}
			"${LIBGMEM_CARGO}" rustc ${arg_ARGUMENTS} --crate-type staticlib --locked ${offline} ${features}
			--profile "${profile}" --target "${LIBGMEM_RUST_TARGET}"
			--target-dir "${LIBGMEM_CARGO_TARGET_DIR_USED}"
		COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${from}/${arg_ARTIFACT}" "${output}"
		${copy_headers}
		BYPRODUCTS "${output}" ${headers}
		# .cargo/config.toml and a vendored registry are found from here.
		WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
		COMMENT "Building Rust code with Cargo (${target})"
		COMMAND_EXPAND_LISTS VERBATIM USES_TERMINAL)
	set(${arg_OUTPUT_VARIABLE} "${output}" PARENT_SCOPE)
endfunction()
