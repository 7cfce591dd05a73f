"""Search spaces, parameters, trials and the study journal. Imports no torch, ray, mlflow or pandas."""
