// SPDX-License-Identifier: Apache-2.0
//! `malloc_family!`: exports the C library's names of malloc, each a single jump to the peer's function.
//!
//! Functions that a peer lacks call these: reallocarray of the C library, and C++'s operators of libstdc++.

macro_rules! malloc_family {
    ($($name:ident => $peer:literal)*) => {
        $(
            /// # Safety
            /// As the C library's function of this name.
            // Naked, because a call in Rust would go through the table of global offsets.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            pub unsafe extern "C" fn $name() {
                unsafe extern "C" {
                    #[link_name = $peer]
                    fn peer();
                }
                #[cfg(target_arch = "x86_64")]
                core::arch::naked_asm!("jmp {}", sym peer);
                #[cfg(target_arch = "aarch64")]
                core::arch::naked_asm!("b {}", sym peer);
            }
        )*
    };
}
