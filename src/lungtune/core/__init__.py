"""The pure heart: spaces, parameters, trials, the journal. No torch, no ray, no mlflow, no pandas."""
