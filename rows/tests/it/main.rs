//! Row changes from pages: against two oracles that know nothing of pages, and through real logs.

mod churn;
mod follow;
mod image;
mod kinds;
mod reported;
mod scripts;
mod watched;
