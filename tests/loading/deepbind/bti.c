/* SPDX-License-Identifier: Apache-2.0 */
/* dlopen() of cpp/dlopen.S in guarded pages, where an indirect call must find a landing pad (BTI, aarch64). The rest of
 * the library cannot be guarded, because Rust's standard library is not compiled for it. */
#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>

#include "../../check.h"

void calls_no_landing_pad(void);
/* What cpp/dlopen.cpp asks the core. */
__attribute__((visibility("default"))) int gmem_heap_keeps_deepbind(void);
int gmem_heap_keeps_deepbind(void) { return 0; }

static sigjmp_buf before;

static void back(int signal) {
	(void)signal;
	siglongjmp(before, 1);
}

/* Whether the processor and the kernel check indirect calls into the library. */
static int pages_are_guarded(void) {
	struct sigaction action, former;
	memset(&action, 0, sizeof action);
	action.sa_handler = back;
	NEED(sigaction(SIGILL, &action, &former) == 0);
	const int stopped = sigsetjmp(before, 1);
	if (stopped == 0) {
		calls_no_landing_pad();
	}
	/* A later SIGILL ends the test. */
	NEED(sigaction(SIGILL, &former, NULL) == 0);
	return stopped;
}

int main(void) {
	if (!pages_are_guarded()) {
		puts("no BTI on this machine");
		return 77;
	}
	/* The first call looks for the next dlopen(), the second has it. Both through a pointer, as by a PLT. */
	void *(*volatile open)(const char *, int) = dlopen;
	for (int i = 0; i < 2; ++i) {
		void *plugin = open("libdeepbind_plugin.so", RTLD_NOW | RTLD_DEEPBIND);
		CHECK(plugin != NULL);
		CHECK(plugin != NULL && dlclose(plugin) == 0);
	}
	return checks_result("bti");
}
