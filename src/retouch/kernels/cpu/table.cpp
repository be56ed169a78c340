#include "convert.h"
#include "ops.h"

#define RETOUCH_STRING_(x) #x
#define RETOUCH_STRING(x) RETOUCH_STRING_(x)

namespace retouch::RETOUCH_NS {

extern const KernelTable table;
const KernelTable table = {RETOUCH_STRING(RETOUCH_NS),
                           lanes,
                           max_vectors,
                           gemm,
                           row_map,
                           depthwise,
                           pool,
                           attention,
                           channel_sums,
                           convert_rows};

} // namespace retouch::RETOUCH_NS
