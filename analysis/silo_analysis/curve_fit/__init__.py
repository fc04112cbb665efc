"""Which curve over cycles fits the responses that an Oracle measured: SILO's S, a simpler curve, or a freer one?

The object is the response: validation accuracy over max_lr, per cycle and seed. A curve over cycles is worth the
accuracy that is read off the response at its own max_lr at each cycle, mean over cycles and seeds, and a fit is the
curve of a family that is worth most. It does not chase the best rate of each cycle: where a response is flat, that rate
is noise, and where it ends in a cliff, a rate beside the best may be far worse than one on the other side.

What a fit sees is smoothed (`smoothed`), because the mean of a few seeds has spikes that a fit would follow; what it is
measured on is not: accuracies as they were, read along straight lines in log max_lr between the rates that were tried.
Nothing is read beyond them. In simulated runs the smoothing divided the true loss of the fits by about three, and did
no harm beside a cliff.

Every family is a finite set of curves on a fine grid of its parameters, so that a fit is exact and the same every time.
Among equals the first is taken: a constant peak before any other, then the S with SILO's own beta and q.

Choices are made on validation; test accuracies of what was chosen are read off afterwards.
"""

from __future__ import annotations

from silo_analysis.curve_fit.comparison import BetaFit, Comparison, Fit, compare, schedule_of
from silo_analysis.curve_fit.fitted_response import Response, response_from, response_of

__all__ = ["BetaFit", "Comparison", "Fit", "Response", "compare", "response_from", "response_of", "schedule_of"]
