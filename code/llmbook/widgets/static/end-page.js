mountAll(KIND, DRAW);
