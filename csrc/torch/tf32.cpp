#include "tf32.h"

namespace fastconv::ops {

bool (*tf32_allowed)(Fp32Use use) = [](Fp32Use) { return false; };

}  // namespace fastconv::ops
