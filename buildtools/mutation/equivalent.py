"""Mutants that change nothing that counts, and why."""

# (file, operator, source line, place on that line counted from 0) -> reason.
EQUIVALENT: dict[tuple[str, str, str, int], str] = {
    (
        "kernels/conv2d_direct.cuh",
        "drop_zero_fill",
        "pixel_p[i] = inside ? static_cast<int>(row % problem.P) : 0;",
        0,
    ): "rows beyond the last are marked in pixel_n; whatever p and q say is not used",
    (
        "kernels/conv2d_direct.cuh",
        "drop_condition",
        "if (params.channels_innermost) {",
        0,
    ): "both branches number all taps, in another order: the layouts' coalescing, not the sum's terms",
    (
        "kernels/conv2d_direct.cuh",
        "drop_zero_fill",
        "pixel_q[i] = inside ? static_cast<int>(pixel % problem.Q) : 0;",
        0,
    ): "as for pixel_p",
    (
        "kernels/gemm_simt.cuh",
        "drop_condition",
        "if (more) fetch(depth_left - kTileK);",
        0,
    ): "beyond the last step nothing is inside, so nothing is loaded, and what was fetched is not stored",
}
