"""What an answer may be found to be, in the records of `rag`."""

JUDGED = ("faithful", "hallucinated")  # by which detectors are judged; the others have none of their scores
UNLABELLED = "unlabelled"  # no accepted answer is known, or nobody has answered
# The others: says that it does not know; ended in its midst; says nothing.
VERDICTS = (*JUDGED, "abstained", "cut", "empty", UNLABELLED)
UNKNOWN = -1  # the label of an answer that is neither faithful nor hallucinated because it is no whole answer
