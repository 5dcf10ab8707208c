"""Every class of activities. What is in an instance's `activities`, a worker registers."""

from keyturn.activities.check_readiness import CheckReadiness
from keyturn.activities.create_rotation_job import CreateRotationJob
from keyturn.activities.decide import Decide
from keyturn.activities.deliver_job import DeliverJob
from keyturn.activities.deliver_notices import DeliverNotices
from keyturn.activities.draft_reply import DraftReply
from keyturn.activities.judge_page import JudgePage
from keyturn.activities.record_event import RecordEvent
from keyturn.activities.rotate_key import RotateKey
from keyturn.activities.withdraw_claim import WithdrawClaim

ACTIVITIES = (
    Decide,
    CreateRotationJob,
    WithdrawClaim,
    RecordEvent,
    DraftReply,
    DeliverJob,
    DeliverNotices,
    JudgePage,
    RotateKey,
    CheckReadiness,
)
