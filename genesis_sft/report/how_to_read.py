"""How the numbers of a report are to be read: (what stands there, what it means)."""

HOW_TO_READ = (
    (
        "In brackets: the 95 % interval of the difference",
        "Both models answered the same items, so how hard an item is drops out of the difference. That is why its "
        "interval is often narrower than those of the two scores suggest. Of MMLU whole subjects are the units. The "
        "interval may leave out 0 where the exact test, which is stricter, makes no claim.",
    ),
    (
        "Better, worse",
        "is said of at least 10 items where such a difference would come by chance in fewer than 5 of 100 runs that "
        "change nothing. For benchmarks and chat checks the p-value is Holm's, which allows for how many were "
        "compared: of a whole table without a true change, 95 of 100 hold no claim at all.",
    ),
    (
        "Cannot be told",
        "is not the same as unchanged. Visible from: the true difference that so many items would have shown four "
        "times out of five; anything smaller may be there unseen.",
    ),
    (
        "Not above chance",
        "The score is less than two standard errors above what guessing gives. If that holds before and after, "
        "the benchmark is too hard for this model and says nothing about the run, whichever way it moved.",
    ),
    (
        "Benchmarks are the harness's standard tasks",
        "before and after alike. As plain text they show what fine-tuning did to the knowledge of the base, not how "
        "well it chats; that is the primary score. With a limit on documents they are not comparable to published "
        "scores.",
    ),
    (
        "Held-out loss",
        "is measured on conversations kept back from each source of the mixture, on the tokens that training would "
        "have trained. It shows that the model took on this kind of conversation and this format; it does not show "
        "that its answers are true. The total weighs every token the same.",
    ),
    (
        "Forgetting",
        "is the loss on passages of plain text that no run is trained on. Only the change means something: base models "
        "have mostly seen public text. Whole passages are the units.",
    ),
    (
        "Perplexity",
        "is shown per word; it is compared as its logarithm, nats per word, because an average of perplexities is "
        "ruled by a few items.",
    ),
    (
        "Ended with an answer",
        "The model wrote some text and closed its turn before the token limit; an empty answer does not count. The "
        "intervals of shares of answers are Wilson's, 95 %.",
    ),
)
