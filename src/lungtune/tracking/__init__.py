"""A study's journal, projected into MLflow. The only importer of mlflow, and only once it is needed."""

from lungtune.tracking.store import tracking_uri
from lungtune.tracking.tracker import Delivery, Tracker, sync

__all__ = ["Delivery", "Tracker", "sync", "tracking_uri"]
