//! Windows of attention in a grid of tokens.

/// The windows of a grid of tokens.
pub(super) struct Windows {
    /// Rows and columns of tokens.
    pub(super) grid: [usize; 2],
    /// Rows and columns, padded to whole windows.
    padded: [usize; 2],
    pub(super) side: usize,
    pub(super) shift: usize,
    /// Index of the token at each place of each window; `None` for padding.
    pub(super) places: Vec<Option<usize>>,
}

impl Windows {
    /// Windows that are shifted by `shift` tokens.
    pub(super) fn new(grid: [usize; 2], side: usize, shift: usize) -> Self {
        let padded = grid.map(|extent| extent.next_multiple_of(side));
        let mut windows = Self { grid, padded, side, shift, places: Vec::new() };
        windows.places = windows
            .cells()
            .map(|cell| {
                let [row, column] = [0, 1].map(|axis| (cell[axis] + shift) % padded[axis]);
                (row < grid[0] && column < grid[1]).then_some(row * grid[1] + column)
            })
            .collect();
        windows
    }

    /// Row and column of each place of each window, in the shifted, padded grid.
    fn cells(&self) -> impl Iterator<Item = [usize; 2]> + use<> {
        let ([rows, columns], side) = (self.padded, self.side);
        let windows =
            (0..rows).step_by(side).flat_map(move |row| (0..columns).step_by(side).map(move |column| [row, column]));
        windows.flat_map(move |[row, column]| {
            (0..side * side).map(move |place| [row + place / side, column + place % side])
        })
    }

    pub(super) fn count(&self) -> usize {
        self.padded[0] * self.padded[1] / (self.side * self.side)
    }

    pub(super) fn is_padded(&self) -> bool {
        self.padded != self.grid
    }

    /// The place in the windows of each token.
    pub(super) fn inverse(&self) -> Vec<Option<usize>> {
        let mut inverse = vec![None; self.grid[0] * self.grid[1]];
        for (place, token) in self.places.iter().enumerate() {
            if let Some(token) = token {
                inverse[*token] = Some(place);
            }
        }
        inverse
    }

    /// Number of possible distances of two tokens in a window.
    pub(super) fn distances(&self) -> usize {
        (2 * self.side - 1) * (2 * self.side - 1)
    }

    /// The biases of all pairs of tokens [heads, tokens, tokens], from `table` [distances, heads].
    pub(super) fn biases(&self, table: &[f32]) -> Vec<f32> {
        let (side, heads) = (self.side, table.len() / self.distances());
        let area = side * side;
        let mut values = Vec::with_capacity(heads * area * area);
        for head in 0..heads {
            for query in 0..area {
                for key in 0..area {
                    let down = query / side + side - 1 - key / side;
                    let across = query % side + side - 1 - key % side;
                    values.push(table[(down * (2 * side - 1) + across) * heads + head]);
                }
            }
        }
        values
    }

    /// The mask between tokens from opposite edges that the shift combined [windows, 1, tokens, tokens]: 0, or `masked`.
    pub(super) fn mask(&self, masked: f32) -> Vec<f32> {
        let strip =
            |at: usize, extent: usize| usize::from(at + self.side >= extent) + usize::from(at + self.shift >= extent);
        let regions: Vec<_> =
            self.cells().map(|[row, column]| [strip(row, self.padded[0]), strip(column, self.padded[1])]).collect();
        let mut mask = Vec::with_capacity(regions.len() * self.side * self.side);
        for window in regions.chunks_exact(self.side * self.side) {
            for query in window {
                mask.extend(window.iter().map(|key| if key == query { 0.0 } else { masked }));
            }
        }
        mask
    }
}
