"""What an answer may be found to be, in the records of `rag`."""

JUDGED = ("faithful", "hallucinated")  # by which detectors are judged; the others have none of their scores
VERDICTS = (*JUDGED, "abstained", "cut", "empty")  # says that it does not know; ended in its midst; says nothing
UNKNOWN = -1  # the label of an answer that is neither faithful nor hallucinated because it is no whole answer
