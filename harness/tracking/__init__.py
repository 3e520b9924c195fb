"""Runs in MLflow, and what is read off them.  The only room with mlflow."""
