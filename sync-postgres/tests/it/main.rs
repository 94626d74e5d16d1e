//! Goal: PostgreSQL has what SQLite has, row by row and value by value, whatever is killed; what it cannot have is said. Method:
//! real logs, a real server, and every value read back and compared.

mod comparing;
mod copying;
mod following;
mod pulling;
mod refusing;
mod scene;
