"""What a network is trained for and judged by: the loss of a batch, the score of a part, the guess."""
