"""A red-black tree of ranges, augmented with the largest block of each subtree, shaped like the kernel's.

Idea: the kernel's search for aligned requests depends on the *shape* of its free tree (specification section 1.7), so
the tree must be rebalanced exactly as the kernel does it.  Appendix B says which textbook choices are enough: insertion
as a red leaf, Cormen's fix-ups, and deletion through the in-order successor.  Any other balanced structure gives
correct but different addresses.

Shape: rows of ``AreaRows`` joined by ``rb_parent``, ``rb_left``, ``rb_right``; ``NIL`` (row 0) is the leaf: black, no
blocks below, its ``rb_parent`` scratch space of a running deletion.  The kernel keeps ``subtree_max_size`` in each node
and looks into both children when it searches; here a node holds the maxima of its two *children* (``left_max``,
``right_max``), so that a search touches only the nodes it visits.

Invariants (``validate.validate_free_tree`` checks them all, trusting nothing): ranges ascend in order and never touch;
the root is black, no red node has a red child, every path down has the same number of black nodes;
``left_max`` and ``right_max`` are the largest blocks of the two subtrees, exactly, after every call.

Why the maximum is kept by every primitive instead of by callbacks: there is one user, and exactness at each step makes
the structure checkable at each step.
"""

import cython

if not cython.compiled:
    from vmalloc.areas.states import NIL

    BLACK, RED = 0, 1

__all__ = ["RbTree"]


class RbTree:
    """Ordered ranges with exact subtree maxima; ``FreeTree`` adds the allocator's search and merges."""

    def __init__(self, rows):
        self.rows = rows
        self.root = NIL
        self.count = 0

    def largest_below(self, n):
        """``subtree_max_size`` of ``n``: the largest block in its subtree, itself included; 0 for ``NIL``."""
        row = self.rows.row
        biggest = row[n].va_end - row[n].va_start
        if row[n].left_max > biggest:
            biggest = row[n].left_max
        if row[n].right_max > biggest:
            biggest = row[n].right_max
        return biggest

    def propagate(self, n):
        """Tells the ancestors of ``n`` that its subtree has changed; stops at the first that knew (section 1.6)."""
        row = self.rows.row
        p = row[n].rb_parent
        while p != NIL:
            biggest = self.largest_below(n)
            if row[p].rb_left == n:
                if row[p].left_max == biggest:
                    return
                row[p].left_max = biggest
            else:
                if row[p].right_max == biggest:
                    return
                row[p].right_max = biggest
            n = p
            p = row[n].rb_parent

    def climb(self, n):
        """``propagate`` that does not stop before the root: for an erase, where a moved node hides what changed."""
        row = self.rows.row
        p = row[n].rb_parent
        while p != NIL:
            if row[p].rb_left == n:
                row[p].left_max = self.largest_below(n)
            else:
                row[p].right_max = self.largest_below(n)
            n = p
            p = row[n].rb_parent

    def replace_child(self, parent, old, new):
        """Makes ``new`` stand where ``old`` stood below ``parent``, or at the root."""
        row = self.rows.row
        if parent == NIL:
            self.root = new
        elif row[parent].rb_left == old:
            row[parent].rb_left = new
        else:
            row[parent].rb_right = new

    def rotate_left(self, x):
        """Lifts ``x``'s right child above ``x``; the blocks below the two stay the same, so nothing above changes."""
        row = self.rows.row
        y = row[x].rb_right
        row[x].rb_right = row[y].rb_left
        if row[y].rb_left != NIL:
            row[row[y].rb_left].rb_parent = x
        row[y].rb_parent = row[x].rb_parent
        self.replace_child(row[x].rb_parent, x, y)
        row[x].right_max = row[y].left_max
        row[y].rb_left = x
        row[x].rb_parent = y
        row[y].left_max = self.largest_below(x)

    def rotate_right(self, x):
        """The mirror image of ``rotate_left``."""
        row = self.rows.row
        y = row[x].rb_left
        row[x].rb_left = row[y].rb_right
        if row[y].rb_right != NIL:
            row[row[y].rb_right].rb_parent = x
        row[y].rb_parent = row[x].rb_parent
        self.replace_child(row[x].rb_parent, x, y)
        row[x].left_max = row[y].right_max
        row[y].rb_right = x
        row[x].rb_parent = y
        row[y].right_max = self.largest_below(x)

    def link(self, z, parent, left):
        """Hangs the row ``z`` below ``parent`` as a red leaf and restores balance and maxima.

        Preconditions: ``parent`` has no child on that side and the position keeps the order.
        """
        row = self.rows.row
        row[z].rb_parent = parent
        row[z].rb_left = NIL
        row[z].rb_right = NIL
        row[z].color = RED
        row[z].left_max = 0
        row[z].right_max = 0
        self.count += 1
        if parent == NIL:
            self.root = z
        elif left:
            row[parent].rb_left = z
        else:
            row[parent].rb_right = z
        self.propagate(z)
        self.fix_after_insert(z)

    def fix_after_insert(self, z):
        """Removes the red-red violation at ``z`` (Appendix B rule 1)."""
        row = self.rows.row
        while row[row[z].rb_parent].color == RED:
            p = row[z].rb_parent
            g = row[p].rb_parent
            uncle = row[g].rb_right if p == row[g].rb_left else row[g].rb_left
            if row[uncle].color == RED:
                row[p].color = BLACK
                row[uncle].color = BLACK
                row[g].color = RED
                z = g
            elif p == row[g].rb_left:
                if z == row[p].rb_right:
                    self.rotate_left(p)
                    p = z
                row[p].color = BLACK
                row[g].color = RED
                self.rotate_right(g)
                break
            else:
                if z == row[p].rb_left:
                    self.rotate_right(p)
                    p = z
                row[p].color = BLACK
                row[g].color = RED
                self.rotate_left(g)
                break
        row[self.root].color = BLACK

    def erase(self, z):
        """Takes ``z`` out of the tree (Appendix B rule 2); the row itself stays the caller's."""
        row = self.rows.row
        self.count -= 1
        color = row[z].color
        if row[z].rb_left == NIL or row[z].rb_right == NIL:
            x = row[z].rb_right if row[z].rb_left == NIL else row[z].rb_left
            row[x].rb_parent = row[z].rb_parent
            self.replace_child(row[z].rb_parent, z, x)
            start = row[z].rb_parent
        else:
            y = row[z].rb_right
            while row[y].rb_left != NIL:
                y = row[y].rb_left
            color = row[y].color
            x = row[y].rb_right
            if row[y].rb_parent == z:
                row[x].rb_parent = y
                start = y
            else:
                start = row[y].rb_parent
                row[x].rb_parent = start
                row[start].rb_left = x
                row[y].rb_right = row[z].rb_right
                row[row[y].rb_right].rb_parent = y
            row[y].rb_parent = row[z].rb_parent
            self.replace_child(row[z].rb_parent, z, y)
            row[y].rb_left = row[z].rb_left
            row[row[y].rb_left].rb_parent = y
            row[y].left_max = row[z].left_max
            row[y].color = row[z].color
        # All the way up: the successor moved, so an unchanged node below its new place proves nothing.
        if start != NIL:
            row[start].left_max = self.largest_below(row[start].rb_left)
            row[start].right_max = self.largest_below(row[start].rb_right)
            self.climb(start)
        if color == BLACK:
            self.fix_after_erase(x)
        row[NIL].rb_parent = NIL

    def fix_after_erase(self, x):
        """Gives the subtree at ``x`` back the black node it lost; ``x`` may be ``NIL``, whose parent was noted."""
        row = self.rows.row
        while x != self.root and row[x].color == BLACK:
            p = row[x].rb_parent
            if x == row[p].rb_left:
                s = row[p].rb_right
                if row[s].color == RED:
                    row[s].color = BLACK
                    row[p].color = RED
                    self.rotate_left(p)
                    s = row[p].rb_right
                if row[row[s].rb_left].color == BLACK and row[row[s].rb_right].color == BLACK:
                    row[s].color = RED
                    x = p
                    continue
                if row[row[s].rb_right].color == BLACK:
                    row[row[s].rb_left].color = BLACK
                    row[s].color = RED
                    self.rotate_right(s)
                    s = row[p].rb_right
                row[s].color = row[p].color
                row[p].color = BLACK
                row[row[s].rb_right].color = BLACK
                self.rotate_left(p)
            else:
                s = row[p].rb_left
                if row[s].color == RED:
                    row[s].color = BLACK
                    row[p].color = RED
                    self.rotate_right(p)
                    s = row[p].rb_left
                if row[row[s].rb_right].color == BLACK and row[row[s].rb_left].color == BLACK:
                    row[s].color = RED
                    x = p
                    continue
                if row[row[s].rb_left].color == BLACK:
                    row[row[s].rb_right].color = BLACK
                    row[s].color = RED
                    self.rotate_left(s)
                    s = row[p].rb_left
                row[s].color = row[p].color
                row[p].color = BLACK
                row[row[s].rb_left].color = BLACK
                self.rotate_right(p)
            x = self.root
        row[x].color = BLACK

    def lowest(self):
        """The row with the lowest address, or ``NIL``."""
        row = self.rows.row
        n = self.root
        while n != NIL and row[n].rb_left != NIL:
            n = row[n].rb_left
        return n

    def next(self, n):
        """The in-order successor of ``n``, or ``NIL``."""
        row = self.rows.row
        if row[n].rb_right != NIL:
            n = row[n].rb_right
            while row[n].rb_left != NIL:
                n = row[n].rb_left
            return n
        while row[n].rb_parent != NIL and n == row[row[n].rb_parent].rb_right:
            n = row[n].rb_parent
        return row[n].rb_parent

    def previous(self, n):
        """The in-order predecessor of ``n``, or ``NIL``."""
        row = self.rows.row
        if row[n].rb_left != NIL:
            n = row[n].rb_left
            while row[n].rb_right != NIL:
                n = row[n].rb_right
            return n
        while row[n].rb_parent != NIL and n == row[row[n].rb_parent].rb_left:
            n = row[n].rb_parent
        return row[n].rb_parent
