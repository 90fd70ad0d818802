//! The export transaction: plan, transfer, commit.
