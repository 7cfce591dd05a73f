"""What scores mean: metrics, intervals over patients, baselines, the optimism of a search's best."""
