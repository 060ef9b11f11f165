//! Command operators: what `%START_TIME%` and its like print.
