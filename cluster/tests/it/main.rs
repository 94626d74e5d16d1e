//! Tests of the roles, in simulated time.

mod simulated;
