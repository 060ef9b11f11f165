//! The admin server: one table of endpoints.
