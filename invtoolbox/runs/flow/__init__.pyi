from .results import FlowStudy as FlowStudy
from .sequence import flow_sequence as flow_sequence
from .source import SequencePath as SequencePath
