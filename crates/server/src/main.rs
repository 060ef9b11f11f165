//! The `outrider` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: outrider::Allocator = outrider::Allocator;

fn main() -> ExitCode {
    abort_on_panic();
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_else(|| "outrider".to_owned());
    outrider::run(&program, &arguments.collect::<Vec<_>>())
}

/// Ends the process if a thread panics: the other threads would run on with wrong counts and broken connection pools.
///
/// The release build does not use `panic = "abort"`, because LuaJIT reports the errors of scripts by unwinding through
/// Rust's frames, and such a build aborts at each.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
