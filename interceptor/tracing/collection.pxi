# Garbage collections.

cdef enum:
    KEPT_COLLECTIONS = 100  # as in collection

cdef bint collecting = False
cdef long long collections = 0
cdef object kept_contexts = deque()


cpdef bint is_collecting() noexcept:
    """Does what collection.is_collecting does."""
    return collecting


def note_collection(phase, info):
    """Does what collection.note_collection does."""
    global collecting, collections
    collecting = phase == "start"
    if collecting:
        collections += 1
        while kept_contexts and kept_contexts[0][0] < collections - KEPT_COLLECTIONS:
            kept_contexts.popleft()


def keep_context_if_collecting():
    """Does what collection.keep_context_if_collecting does."""
    if collecting:
        kept_contexts.append((collections, copy_context()))
    return collecting
