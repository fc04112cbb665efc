"""What a run gives to others: a smaller network, Optuna studies."""
