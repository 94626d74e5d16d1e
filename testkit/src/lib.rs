//! What the project's tests are made of: real servers, a proxy that injects faults, workloads that can prove what
//! they wrote, and comparisons of whole databases. Nothing here knows how litekeep works inside.
//!
//! Everything is synchronous to its user and brings its own threads, so it serves tests with and without a runtime.

pub mod bank;
pub mod brokers;
pub mod campaign;
pub mod certificates;
pub mod chromium;
pub mod churn;
pub mod clock;
pub mod contents;
pub mod etcd;
pub mod fault_proxy;
pub mod garbling;
pub mod hanging_folder;
pub mod installed;
pub mod instance_metadata;
mod leavings;
pub mod link;
pub mod litestream;
pub mod mongodb;
pub mod mysql;
mod mysql_programs;
pub mod network;
pub mod postgres;
pub mod power_cut;
pub mod process;
pub mod programs;
pub mod s3_server;
mod serving;
pub mod tls_front;
pub mod usage;

pub use bank::Bank;
pub use brokers::Broker;
pub use certificates::Certificates;
pub use churn::Churn;
pub use contents::Digest;
pub use etcd::Etcd;
pub use fault_proxy::FaultProxy;
pub use hanging_folder::HangingFolder;
pub use instance_metadata::InstanceMetadata;
pub use link::Link;
pub use litestream::Litestream;
pub use network::Network;
pub use process::Process;
pub use s3_server::{S3Options, S3Server};
pub use tls_front::TlsFront;
pub use usage::Usage;
