/* SPDX-License-Identifier: Apache-2.0 */
/* A library that takes 1 KiB of static thread-local storage, as some that are loaded before libgmem do. */
static __thread char taken[1024] __attribute__((tls_model("initial-exec")));

char *static_tls(void) { return taken; }
