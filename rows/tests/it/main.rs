//! Row changes from pages: against two oracles that know nothing of pages, and through real logs.

mod churn;
mod follow;
mod identity;
mod image;
mod kinds;
mod reported;
mod scripts;
mod undo;
mod undo_at_random;
mod watched;
