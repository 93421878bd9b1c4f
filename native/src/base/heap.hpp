// What the allocator keeps after it was freed.
#pragma once

namespace vicinal {

// Gives free pages of the heap back to the system, those between pages in use too; what is still held stays where it
// is. Where the C library has no such call nothing happens. Milliseconds: for after large things went, not for a
// search.
void release_free_memory() noexcept;

}  // namespace vicinal
