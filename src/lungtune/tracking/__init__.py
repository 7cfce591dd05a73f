"""Projection of a study's journal into MLflow. The only importer of mlflow, deferred until needed."""

from lungtune.tracking.store import tracking_uri
from lungtune.tracking.tracker import Delivery, Tracker, sync

__all__ = ["Delivery", "Tracker", "sync", "tracking_uri"]
