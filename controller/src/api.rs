//! What the controller serves: thin services that convert, ask the core or a store, and reply.

pub mod bulk;
