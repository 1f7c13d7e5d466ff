/* Preloaded, it makes MKL take the processor for Intel's, and so its AVX-512 path: on others MKL takes the AVX2 one. */
int mkl_serv_intel_cpu_true(void) { return 1; }
