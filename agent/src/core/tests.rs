//! Scenarios of the reconciler, told without a runtime, an engine or a clock.
