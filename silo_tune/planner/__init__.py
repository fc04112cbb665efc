"""The planner: which unit may be trained next, what a closed cycle decides, and whose weights may go.

Plain Python, without Ray or torch.
"""
