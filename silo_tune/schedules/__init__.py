"""Learning rates: `peaks` over cycles (max_lr), `shapes` inside one."""
