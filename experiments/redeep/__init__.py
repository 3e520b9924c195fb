"""ReDeEP, below the stages that use it: what is read of a response in a language model, and what is learnt of that."""
