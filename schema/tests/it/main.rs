//! Goal: a migration does what its file says, once, and nothing that it does not say. Method: real files and real
//! databases; processes that race are threads with connections of their own, which SQLite's locks treat alike.

mod conventions;
mod linting;
mod migrations;
mod rewriting;
