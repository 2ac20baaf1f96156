//! Hands the arguments to `cli` and turns the result into an exit code.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // The allocator asks for huge pages, and each thread would keep megabytes of them half-empty.
    let _ = nix::sys::prctl::set_thp_disable(true);
    landfall::cli::run()
}
