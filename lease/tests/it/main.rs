//! Leases against real registers, and by simulation.

mod registers;
mod simulated;
