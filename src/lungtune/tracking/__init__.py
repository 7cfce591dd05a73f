"""Projection of a study's journal into MLflow. The only importer of mlflow, deferred until needed."""

from lungtune.tracking.location import tracking_uri
from lungtune.tracking.preflight import problem
from lungtune.tracking.tracker import Delivery, Tracker, sync

__all__ = ["Delivery", "Tracker", "problem", "sync", "tracking_uri"]
