from .sequence import FlowStudy as FlowStudy
from .sequence import SequencePath as SequencePath
from .sequence import flow_sequence as flow_sequence
