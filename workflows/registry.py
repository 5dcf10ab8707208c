"""Every workflow, by the worker that runs it.

Not in the package itself: Temporal's sandbox imports a workflow's package anew for each workflow.
"""

from keyturn.workflows.bulk import BulkWorkflow
from keyturn.workflows.delivery import DeliveryWorkflow, NoticeWorkflow
from keyturn.workflows.draft import DraftWorkflow
from keyturn.workflows.readiness import ReadinessWorkflow
from keyturn.workflows.rotate_key import RotateKeyWorkflow
from keyturn.workflows.rotation import RotationWorkflow

OF_WORKERS: tuple[type, ...] = (RotationWorkflow, BulkWorkflow, DraftWorkflow, ReadinessWorkflow)
OF_DELIVERIES: tuple[type, ...] = (DeliveryWorkflow,)  # where a receiver of jobs is set up
OF_NOTICES: tuple[type, ...] = (NoticeWorkflow,)  # where routes are set up
OF_DUE_QUEUE: tuple[type, ...] = (RotationWorkflow,)
OF_EXECUTORS: tuple[type, ...] = (RotateKeyWorkflow,)
WORKFLOWS: tuple[type, ...] = (*OF_WORKERS, *OF_DELIVERIES, *OF_NOTICES, *OF_EXECUTORS)
