"""The results of the paper as functions, in its order: bounds, and the identities beside them.

Nearly every bound is a product of a norm of derivatives, which depends on the parameters, and an
eigenvalue of the moments of t(y), which depends on the input alone.  Variances are those of one
draw of y.  Lemma 3.1 is what `diagfim.families.Family.moments` computes.

Corollary 4.6 (Eqs. 13–15), Theorem D.1 (of it Eq. 23) and Lemma I.1 do not hold as printed in the
version that we read; they stand here both ways, the printed one as ``..._as_printed``.
`diagfim.theory` holds every function against random cases.
"""

from typing import TypeVar

import numpy as np
import xarray as xr

from diagfim.derivatives.factored import Derivatives
from diagfim.moments import Labelled
from diagfim.spectra import sum_of_others


def squared_norms(derivatives: Derivatives) -> tuple[Labelled, Labelled]:
    """‖∂_i h‖² and ‖∂²_i h‖² of every parameter at every input.

    Parameters
    ----------
    derivatives : Derivatives
        Of n inputs, as NumPy arrays.

    Returns
    -------
    parameters : dict of str to dict of str to array
        ``first_squared`` and ``second_squared``, each ``(n, *shape)`` of its tensor.
    layers : dict of str to dict of str to array
        By weight name, (n,) means over the layer's parameters: of ``first_squared``, of its square
        ``first_fourth``, and of ``second_squared``.
    """
    parameters: Labelled = {}
    layers: Labelled = {}
    for layer in derivatives.layers:
        first = np.sum(layer.first**2, axis=1)
        second = np.sum(layer.second**2, axis=1)
        for quantity, left, power in (("first_squared", first, 2), ("second_squared", second, 4)):
            for name, value in layer.expand(left, power).items():
                parameters.setdefault(name, {})[quantity] = value
        layers[layer.weight] = {
            "first_squared": layer.average(first, 2),
            "first_fourth": layer.average(first**2, 4),
            "second_squared": layer.average(second, 4),
        }
    return parameters, layers


ArrayLike = TypeVar("ArrayLike", np.ndarray, xr.DataArray)


# -------------------------------------------------------------------------------- one parameter


def theorem_4_1(
    first_squared: ArrayLike,
    second_squared: ArrayLike,
    fisher_eigenvalue: ArrayLike,
    tensor_eigenvalue: ArrayLike,
) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
    """Bounds on I, V1 and V2 per draw of y (Theorem 4.1, Eqs. 7–9).

    With the largest eigenvalues these are upper bounds, with the smallest ones lower bounds.

    Parameters
    ----------
    first_squared, second_squared : array or DataArray
        ‖∂_i h‖² and ‖∂²_i h‖².
    fisher_eigenvalue : array
        λ(I(h|x)), broadcast against the norms.
    tensor_eigenvalue : array
        λ̃(M), likewise.

    Returns
    -------
    fisher, variance_1, variance_2 : array

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import theorem_4_1
    >>> found = theorem_4_1(*(np.array([value]) for value in (3.0, 5.0, 0.5, 0.25)))
    >>> [float(bound[0]) for bound in found]
    [1.5, 2.25, 2.5]
    """
    return (
        first_squared * fisher_eigenvalue,
        first_squared**2 * tensor_eigenvalue,
        second_squared * fisher_eigenvalue,
    )


def corollary_4_2(
    moment_min: np.ndarray, moment_max: np.ndarray, fisher_min: np.ndarray, fisher_max: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A lower bound on λ̃min(M) and an upper one on λ̃max(M) (Corollary 4.2, Eqs. 11 and 12).

    λ̃min(M) ≥ max{0, λ̃min(K) − λmax(I)²} and λ̃max(M) ≤ λ̃max(K) − λmin(I)².

    Parameters
    ----------
    moment_min, moment_max : array, (n,)
        λ̃min(K) and λ̃max(K).
    fisher_min, fisher_max : array, (n,)
        λmin(I) and λmax(I).

    Returns
    -------
    lower, upper : array, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import corollary_4_2
    >>> one = np.ones(1)
    >>> [bound.tolist() for bound in corollary_4_2(3 * one, 3 * one, one, one)]
    [[2.0], [2.0]]
    """
    return np.maximum(0, moment_min - fisher_max**2), moment_max - fisher_min**2


def proposition_4_3(
    radius_squared: np.ndarray, fisher_max: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on λ̃max(K) where t(y) is bounded (Proposition 4.3; Corollary R.1 with B = 2).

    If ‖t(y) − η‖² ≤ B for every y, then λ̃max(K) ≤ B λmax(I) ≤ B².

    Parameters
    ----------
    radius_squared : array, (n,)
        B.
    fisher_max : array, (n,)
        λmax(I).

    Returns
    -------
    bound, looser : array, (n,)
        B λmax(I) and B².

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import proposition_4_3
    >>> [float(bound[0]) for bound in proposition_4_3(np.array([2.0]), np.array([0.5]))]
    [1.0, 4.0]
    """
    return radius_squared * fisher_max, radius_squared**2


# ------------------------------------------------------------------------------ the last layers


def remark_4_4(inputs: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """∂h and ∂²h by the weights of the last layer, h = W a (Remark 4.4).

    ∂h_k/∂W_ij = δ_ki a_j and ∂²h = 0, so that V2 = 0 ≤ V1 in every family.

    Parameters
    ----------
    inputs : array, (n, d)
        a, what enters the layer.
    outputs : int
        T, the number of outputs.

    Returns
    -------
    first, second : array, (n, T, T d)
        The columns in the order of the entries of W.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import remark_4_4
    >>> first, second = remark_4_4(np.array([[2.0, 3.0]]), 2)
    >>> first.tolist(), bool(second.any())
    ([[[2.0, 3.0, 0.0, 0.0], [0.0, 0.0, 2.0, 3.0]]], False)
    """
    n = len(inputs)
    first = np.einsum("ki,nj->nkij", np.eye(outputs), inputs).reshape(n, outputs, -1)
    return first, np.zeros_like(first)


def remark_4_5(outgoing: np.ndarray, curvature: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Hessian of the outputs by the weights into a unit of the second-last layer (Remark 4.5).

    With h = w_out φ(wᵀa + c) + const: ∂²h_k/∂w∂wᵀ = (w_out)_k φ''(z) a aᵀ, z = wᵀa + c.  Hence
    V2 = 0 where φ''(z) = 0: for the sigmoid at z = 0, for SoftPlus in the limit z → ∞.

    Parameters
    ----------
    outgoing : array, (n, T)
        w_out, the weights out of the unit.
    curvature : array, (n,)
        φ''(z).
    inputs : array, (n, d)
        a, what enters the unit.

    Returns
    -------
    array, (n, T, d, d)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import remark_4_5
    >>> remark_4_5(np.array([[3.0]]), np.array([0.5]), np.array([[1.0, 2.0]])).tolist()
    [[[[1.5, 3.0], [3.0, 6.0]]]]
    """
    return np.asarray(np.einsum("nk,n,ni,nj->nkij", outgoing, curvature, inputs, inputs))


# ---------------------------------------------------------------------------------------- traces


def corollary_4_6(
    first_squared: np.ndarray,
    second_squared: np.ndarray,
    fisher_trace: np.ndarray,
    fisher_max: np.ndarray,
    tensor_trace: np.ndarray,
    tensor_max: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bounds on the sums over the parameters of I, V1 and V2 (Corollary 4.6, Eqs. 13–15).

    - Σ_i I ≤ ‖∂h‖_F² min{tr I, λmax(I)}
    - Σ_i V1 ≤ ‖∂h‖_F⁴ min{Σ_tu K_ttuu − ‖I‖_F², λ̃max(M)}
    - Σ_i V2 ≤ ‖∂²h‖_F² min{tr I, λmax(I)}

    with squared norms throughout, unlike `corollary_4_6_as_printed`.  The first terms never count:
    λmax(I) ≤ tr I, and λ̃max(M) is at most the trace of M as a matrix of pairs, a covariance.

    Parameters
    ----------
    first_squared, second_squared : array, (n,)
        ‖∂h‖_F² and ‖∂²h‖_F², the sums of ‖∂_i h‖² and ‖∂²_i h‖² over the parameters.
    fisher_trace, fisher_max : array, (n,)
        tr I(h|x) and λmax(I(h|x)).
    tensor_trace : array, (n,)
        Σ_tu K_ttuu − ‖I‖_F² = Σ_tu M_tutu.
    tensor_max : array, (n,)
        λ̃max(M).

    Returns
    -------
    fisher, variance_1, variance_2 : array, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import corollary_4_6
    >>> [float(bound) for bound in corollary_4_6(*map(np.array, (4.0, 4.0, 1.0, 1.0, 2.0, 2.0)))]
    [4.0, 32.0, 4.0]
    """
    of_fisher = np.minimum(fisher_trace, fisher_max)
    of_tensor = np.minimum(tensor_trace, tensor_max)
    return first_squared * of_fisher, first_squared**2 * of_tensor, second_squared * of_fisher


def corollary_4_6_as_printed(
    first_squared: np.ndarray,
    second_squared: np.ndarray,
    fisher_trace: np.ndarray,
    fisher_max: np.ndarray,
    tensor_trace: np.ndarray,
    tensor_max: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eqs. 13–15 as printed: misprints, not bounds.

    - ‖∂h‖_F min{tr I, ‖∂h‖_F λmax(I)}
    - ‖∂h‖_F² min{Σ_tu K_ttuu − ‖I‖_F², ‖∂h‖_F² λ̃max(M)}
    - ‖∂²h‖_F min{tr I, ‖∂²h‖_F λmax(I)}

    The first term of each lacks a factor, ‖∂h‖_F, ‖∂h‖_F² and ‖∂²h‖_F, and falls below the truth
    where that factor is large.

    Parameters
    ----------
    first_squared, second_squared, fisher_trace, fisher_max, tensor_trace, tensor_max : array, (n,)
        As for `corollary_4_6`.

    Returns
    -------
    fisher, variance_1, variance_2 : array, (n,)

    Examples
    --------
    A single parameter with ∂h = ∂²h = 2 and a normal target has I = 4, V1 = 32 and V2 = 4:

    >>> import numpy as np
    >>> from diagfim.bounds import corollary_4_6_as_printed
    >>> one = np.array(1.0)
    >>> found = corollary_4_6_as_printed(4 * one, 4 * one, one, one, 2 * one, 2 * one)
    >>> [float(bound) for bound in found]
    [2.0, 8.0, 2.0]
    """
    first, second = np.sqrt(first_squared), np.sqrt(second_squared)
    return (
        first * np.minimum(fisher_trace, first * fisher_max),
        first_squared * np.minimum(tensor_trace, first_squared * tensor_max),
        second * np.minimum(fisher_trace, second * fisher_max),
    )


# ---------------------------------------------------------------------------------- drawn inputs


def theorem_4_7(
    input_variance: np.ndarray, draw_variance: np.ndarray, inputs: int, draws: int
) -> np.ndarray:
    """Variance of an estimator over drawn inputs (Theorem 4.7, Eq. 16; Corollary G.2).

    Var_x I(θ_i|x) / N_x + E_x V(θ_i|x) / (N_x N), for N_x inputs and N draws of y at each.  For the
    empirical Fisher of a data law q in place of the model, both I and V are those under q.

    Parameters
    ----------
    input_variance : array
        Var_x I(θ_i|x).
    draw_variance : array, same shape
        E_x V(θ_i|x), V for one draw.
    inputs, draws : int
        N_x and N.

    Returns
    -------
    array, same shape

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import theorem_4_7
    >>> float(theorem_4_7(np.array(6.0), np.array(12.0), inputs=2, draws=3))
    5.0
    """
    return np.asarray(input_variance / inputs + draw_variance / (inputs * draws))


def lemma_4_8(first_squared: np.ndarray, fisher_max: np.ndarray) -> np.ndarray:
    """Upper bound on Var_x I(θ_i|x): E_x[‖∂_i h‖⁴ λmax(I(h|x))²] (Lemma 4.8).

    Parameters
    ----------
    first_squared : array, (n, ...)
        ‖∂_i h‖² at the n inputs, equally likely.
    fisher_max : array, broadcast against it
        λmax(I(h|x)).

    Returns
    -------
    array, (...)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import lemma_4_8
    >>> float(lemma_4_8(np.array([1.0, 2.0]), np.array([1.0, 0.5])))
    1.0
    """
    return np.asarray(np.mean((first_squared * fisher_max) ** 2, axis=0))


# ------------------------------------------------------------------------------------- families


def proposition_5_1(variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of I and M of isotropic normal targets y ~ N(h, s² 1) (Proposition 5.1).

    λmin(I) = λmax(I) = 1/s² and λ̃min(M) = λ̃max(M) = 2/s⁴, so that Theorem 4.1 holds with equality.
    The paper has s = 1.

    Parameters
    ----------
    variance : array
        s².

    Returns
    -------
    fisher, tensor : array, same shape

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import proposition_5_1
    >>> [float(eigenvalue) for eigenvalue in proposition_5_1(np.array(0.5))]
    [2.0, 8.0]
    """
    return 1 / variance, 2 / variance**2


def theorem_5_2(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper bounds on λmax(I) and λ̃max(M) of a categorical distribution (Theorem 5.2).

    λmax(I) ≤ m and λ̃max(M) ≤ 2m with m = min(max_k σ_k, 1 − ‖σ‖²).  The corresponding lower bounds
    are 0, and both are attained at u = 1/√C.

    Parameters
    ----------
    probabilities : array, (n, C)
        σ.

    Returns
    -------
    fisher_bound, tensor_bound : array, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import theorem_5_2
    >>> [float(bound[0]) for bound in theorem_5_2(np.full((1, 10), 0.1))]
    [0.1, 0.2]
    """
    # 1 − ‖σ‖² loses all digits near a one-hot σ; Σ_c σ_c (1 − σ_c) with 1 − σ_c summed does not.
    complement = sum_of_others(probabilities)
    gini = np.sum(probabilities * complement, axis=1)
    m = np.minimum(probabilities.max(axis=1), gini)
    return m, 2 * m


def score_noise_floor(probabilities: np.ndarray) -> np.ndarray:
    """Lower bound on V1 / I², whatever the parameter, from how likely the likeliest label is.

    Not in the paper.  Let ε = 1 − max_k σ_k, g the centred derivatives along the labels, and A the
    part of I = Σ_c σ_c g_c² that the other labels give.  Since Σ_c σ_c g_c = 0, that of the
    likeliest is at most ε A / (1 − ε), so that A ≥ (1 − ε) I; and Σ_c σ_c g_c⁴ ≥ A² / ε by Cauchy
    and Schwarz.  Hence V1 / I² ≥ (1 − ε)² / ε − 1, which grows without limit as p(y|x) turns
    deterministic: the y-term of Theorem 4.7 then outgrows Var_x I ≤ E_x I².

    Parameters
    ----------
    probabilities : array, (..., C)
        σ.

    Returns
    -------
    array, (...)
        At least 0; infinite where a label is certain.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import score_noise_floor
    >>> round(float(score_noise_floor(np.array([0.9, 0.06, 0.04]))), 3)
    7.1
    """
    others = np.sort(probabilities, axis=-1)[..., :-1].sum(axis=-1)
    with np.errstate(divide="ignore"):
        floor = (1 - others) ** 2 / others - 1
    return np.asarray(np.maximum(floor, 0.0))


# ------------------------------------------------------------------------------ empirical Fisher


def lemma_6_1(second: np.ndarray, mean: np.ndarray, data_mean: np.ndarray) -> np.ndarray:
    """Covariance of t under a data law q: I^q(h|x) − (η − η̂)(η − η̂)ᵀ (Lemma 6.1).

    Parameters
    ----------
    second : array, (n, T, T)
        I^q(h|x) = E_q[(t − η)(t − η)ᵀ].
    mean, data_mean : array, (n, T)
        η under the model and η̂ under q.

    Returns
    -------
    array, (n, T, T)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import lemma_6_1
    >>> lemma_6_1(np.array([[[5.0]]]), np.array([[1.0]]), np.array([[3.0]])).tolist()
    [[[1.0]]]
    """
    shift = mean - data_mean
    return np.asarray(second - shift[:, :, None] * shift[:, None, :])


def corollary_g_1(first: np.ndarray, fourth: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Variance of one draw of the empirical Fisher under a data law q (Corollary G.1).

    ∂_i h_a ∂_i h_b ∂_i h_c ∂_i h_d (K^q_abcd − I^q_ab I^q_cd).  By Lemma 6.1 the second moment is
    Cov^q(t) + (η − η̂)(η − η̂)ᵀ as well, which gives the second form.

    Parameters
    ----------
    first : array, (n, T, P)
        ∂_i h.
    fourth : array, (n, T, T, T, T)
        K^q = E_q of the fourfold outer product of t − η.
    second : array, (n, T, T)
        I^q(h|x) = E_q[(t − η)(t − η)ᵀ].

    Returns
    -------
    array, (n, P)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import corollary_g_1
    >>> corollary_g_1(np.full((1, 1, 1), 2.0), np.full((1,) * 5, 5.0), np.ones((1, 1, 1))).tolist()
    [[64.0]]
    """
    n, size, units = first.shape
    pairs = np.einsum("nai,nbi->nabi", first, first).reshape(n, size**2, units)
    of_fourth = np.sum(pairs * (fourth.reshape(n, size**2, size**2) @ pairs), axis=1)
    of_second = np.sum(first * (second @ first), axis=1)
    return np.asarray(of_fourth - of_second**2)


# --------------------------------------------------------------------------- off the diagonal


def theorem_c_1(
    first_squared: np.ndarray, second_squared: np.ndarray, gamma: np.ndarray, singular: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on the variances of the entries i, j of both estimators (Theorem C.1).

    Var Î1_ij ≤ ‖∂_i h‖² ‖∂_j h‖² γ̃max(M) and Var Î2_ij ≤ ‖∂²_ij h‖² γmax(I), with γ̃max(M) the
    supremum of u_a v_b u_c v_d M_abcd over unit u and v, and γmax that of u_a v_b I_ab (Lemma C.2).

    Parameters
    ----------
    first_squared : array, (n, P)
        ‖∂_i h‖².
    second_squared : array, (n, P, P)
        ‖∂²_ij h‖².
    gamma : array, (n,)
        γ̃max(M); see `diagfim.spectra.gamma_max`.
    singular : array, (n,)
        γmax(I).

    Returns
    -------
    variance_1, variance_2 : array, (n, P, P)

    Notes
    -----
    The text after the theorem has lower bounds trivial, because infima over u and v are negative.
    That is so of γmin(I), but γ̃min(M) is the infimum of the variances of (uᵀr)(vᵀr): it is never
    negative, and 1 for two normal targets of variance 1, attained at orthogonal u and v.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import theorem_c_1
    >>> one, two = theorem_c_1(np.array([[1.0, 2.0]]), np.ones((1, 2, 2)), np.ones(1), np.ones(1))
    >>> one.tolist(), two.tolist()
    ([[[1.0, 2.0], [2.0, 4.0]]], [[[1.0, 1.0], [1.0, 1.0]]])
    """
    norms = first_squared[:, :, None] * first_squared[:, None, :]
    return norms * gamma[:, None, None], second_squared * singular[:, None, None]


def lemma_c_2(matrix: np.ndarray) -> np.ndarray:
    """γmax(A), the supremum of uᵀAv over unit u and v, as the largest singular value (Lemma C.2).

    Parameters
    ----------
    matrix : array, (n, T, T)
        A.

    Returns
    -------
    array, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import lemma_c_2
    >>> round(float(lemma_c_2(np.array([[[0.0, -3.0], [2.0, 0.0]]]))[0]), 12)
    3.0
    """
    return np.asarray(np.linalg.norm(matrix, ord=2, axis=(1, 2)))


def corollary_c_3(second_squared: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Upper bound on Var Î2_ij: ‖∂²_ij h‖² s_max(I(h|x)) (Corollary C.3).

    Parameters
    ----------
    second_squared : array, (n, P, P)
        ‖∂²_ij h‖².
    covariance : array, (n, T, T)
        I(h|x).

    Returns
    -------
    array, (n, P, P)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import corollary_c_3
    >>> corollary_c_3(np.full((1, 1, 1), 3.0), 2 * np.eye(2)[None]).tolist()
    [[[6.0]]]
    """
    return np.asarray(second_squared * lemma_c_2(covariance)[:, None, None])


# -------------------------------------------------------------------------- traces by spectra


def theorem_d_1(
    first: np.ndarray, second: np.ndarray, covariance: np.ndarray, tensor: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bounds on the sums over the parameters of I, V1 and V2 by full spectra (Theorem D.1).

    Each sum is the trace of a product of two matrices, to which Theorem D.2 applies: with s_t the
    singular values of ∂h, of vJac, whose columns are the ∂_i h ∂_i hᵀ as vectors, one for each of
    the dim θ parameters, and of ∂²h, largest first,

    - Σ_t s_t²(∂h) λ_{T−t+1}(I) ≤ Σ_i I ≤ Σ_t s_t²(∂h) λ_t(I)                 (22, t up to T)
    - Σ_t s_t²(vJac) λ_{T²−t+1}(M̄) ≤ Σ_i V1 ≤ Σ_t s_t²(vJac) λ_t(M̄)          (23, t up to T²)
    - Σ_t s_t²(∂²h) λ_{T−t+1}(I) ≤ Σ_i V2 ≤ Σ_t s_t²(∂²h) λ_t(I)              (24, t up to T)

    where M̄ is M as a matrix of the pairs (a, b) and (c, d).  In print the sums of Eq. 23 end at T
    and vJac has T columns; see `theorem_d_1_as_printed`.

    Parameters
    ----------
    first, second : array, (n, T, P)
        ∂_i h and ∂²_i h.
    covariance : array, (n, T, T)
        I(h|x).
    tensor : array, (n, T, T, T, T)
        M.

    Returns
    -------
    list of three tuples (lower, upper) of arrays, (n,)
        Of I, V1 and V2.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import theorem_d_1
    >>> first, second = np.full((2, 1, 1, 1), 2.0)
    >>> found = theorem_d_1(first, second, np.ones((1, 1, 1)), np.full((1,) * 5, 2.0))
    >>> [(float(lower[0]), float(upper[0])) for lower, upper in found]
    [(4.0, 4.0), (32.0, 32.0), (4.0, 4.0)]
    """
    pairs, matrix = _by_pairs(first, tensor)
    return [
        theorem_d_2(first @ first.mT, covariance),
        theorem_d_2(pairs @ pairs.mT, matrix),
        theorem_d_2(second @ second.mT, covariance),
    ]


def theorem_d_1_as_printed(first: np.ndarray, tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 23 as printed, with sums up to T: a misprint, whose two sides are not bounds.

    Σ_{t≤T} s_t²(vJac) λ_{T−t+1}(M̄) and Σ_{t≤T} s_t²(vJac) λ_t(M̄), as bounds on Σ_i V1.  The upper
    one drops terms, the lower one takes eigenvalues that are too large.  For T = 1 it is right.

    Parameters
    ----------
    first, tensor : array
        As for `theorem_d_1`.

    Returns
    -------
    lower, upper : array, (n,)

    Examples
    --------
    Two normal targets of variance 1, M_abcd = δ_ac δ_bd + δ_ad δ_bc, and four parameters, for which
    V1 sums up to 20:

    >>> import numpy as np
    >>> from diagfim.bounds import theorem_d_1_as_printed
    >>> eye = np.eye(2)
    >>> tensor = np.einsum("ac,bd->abcd", eye, eye) + np.einsum("ad,bc->abcd", eye, eye)
    >>> first = np.array([[[1.0, 0, 1, 1], [0, 1, 1, -1]]])
    >>> round(float(theorem_d_1_as_printed(first, tensor[None])[1][0]), 9)
    18.0
    """
    size = first.shape[1]
    pairs, matrix = _by_pairs(first, tensor)
    squares = np.linalg.eigvalsh(pairs @ pairs.mT)[:, ::-1][:, :size]
    eigenvalues = np.linalg.eigvalsh(matrix)[:, ::-1][:, :size]
    return np.sum(squares * eigenvalues[:, ::-1], axis=1), np.sum(squares * eigenvalues, axis=1)


def theorem_d_2(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on the trace of a product of symmetric matrices (Theorem D.2).

    Σ_i λ_i(A) λ_{n−i+1}(B) ≤ tr AB ≤ Σ_i λ_i(A) λ_i(B), each sorted.

    Parameters
    ----------
    a, b : array, (n, T, T)
        Symmetric.

    Returns
    -------
    lower, upper : array, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import theorem_d_2
    >>> found = theorem_d_2(np.diag([1.0, 2.0])[None], np.diag([3.0, 5.0])[None])
    >>> [float(bound[0]) for bound in found]
    [11.0, 13.0]
    """
    of_a, of_b = np.linalg.eigvalsh(a), np.linalg.eigvalsh(b)
    return np.sum(of_a * of_b[:, ::-1], axis=1), np.sum(of_a * of_b, axis=1)


def _by_pairs(first: np.ndarray, tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrices vJac (n, T², P) and M̄ (n, T², T²)."""
    n, size, units = first.shape
    pairs = np.einsum("nai,nbi->nabi", first, first).reshape(n, size**2, units)
    return pairs, tensor.reshape(n, size**2, size**2)


# -------------------------------------------------------------------------------------- lemmas


def lemma_i_1(vector_squared: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on vᵀAv: ‖v‖² times the extreme eigenvalues of (A + Aᵀ)/2 (Lemma I.1).

    Of a symmetric A, such as I(h|x), these are its own eigenvalues; the lemma is printed for any
    square A, of which `lemma_i_1_as_printed` is not true.

    Parameters
    ----------
    vector_squared : array, (n,)
        ‖v‖².
    matrix : array, (n, T, T)
        A.

    Returns
    -------
    lower, upper : array, (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.bounds import lemma_i_1
    >>> lower, upper = lemma_i_1(np.array([2.0]), np.array([[[0.0, 1.0], [0.0, 0.0]]]))
    >>> float(lower[0]), float(upper[0])
    (-1.0, 1.0)
    """
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.mT) / 2)
    return vector_squared * eigenvalues[:, 0], vector_squared * eigenvalues[:, -1]


def lemma_i_1_as_printed(
    vector_squared: np.ndarray, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lemma I.1 as printed, with the eigenvalues of a square A itself: true of symmetric A only.

    Parameters
    ----------
    vector_squared, matrix : array
        As for `lemma_i_1`; A with real eigenvalues.

    Returns
    -------
    lower, upper : array, (n,)

    Examples
    --------
    With v = (1, 1) the form is 1, and both eigenvalues are 0:

    >>> import numpy as np
    >>> from diagfim.bounds import lemma_i_1_as_printed
    >>> lower, upper = lemma_i_1_as_printed(np.array([2.0]), np.array([[[0.0, 1.0], [0.0, 0.0]]]))
    >>> float(lower[0]), float(upper[0])
    (0.0, 0.0)
    """
    eigenvalues = np.linalg.eigvals(matrix).real
    return vector_squared * eigenvalues.min(axis=1), vector_squared * eigenvalues.max(axis=1)
