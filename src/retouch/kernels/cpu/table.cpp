#include "common.h"
#include "ops.h"

#define RETOUCH_STRING_(x) #x
#define RETOUCH_STRING(x) RETOUCH_STRING_(x)

namespace retouch::RETOUCH_NS {

#define RETOUCH_KERNEL(name, Args, source) name,
extern const KernelTable table;
const KernelTable table = {
    RETOUCH_STRING(RETOUCH_NS),
    lanes,
    max_vectors,
#include "kernels.inc"
};

} // namespace retouch::RETOUCH_NS
